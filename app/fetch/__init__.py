"""Fetching: a URL → untrusted bytes in the quarantine. The only part of Cordon that dials out.

``url`` and ``address`` decide, pure, what may be asked for and where; ``resolve`` finds addresses;
``route`` dials exactly those that were checked, or the one egress proxy; ``client`` puts them together.
"""
