"""A stand-in for NCMEC's CyberTipline on this machine, to try filing with and to test it.

It speaks all seven calls, checks what it gets as the real one is documented to, keeps everything in memory,
and sends nothing anywhere. It knows nothing of Cordon's client.
"""
