"""Filing with NCMEC's CyberTipline: the document, its rules, the client, and a double to try it with."""
