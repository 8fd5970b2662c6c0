"""Filing with NCMEC's CyberTipline: the document, its rules, and the client."""
