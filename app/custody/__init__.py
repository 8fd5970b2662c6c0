"""Who may open and decide: keys (identity), who is pinned (roster), and what was signed (decision).

Nothing here speaks to the database. No private key ever goes to it, or to the web process.
"""
