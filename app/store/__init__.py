"""The only SQL.

``banks`` and ``reports`` hold what the two streams store, ``record`` the audit log over both. Beside them
stand the database itself (``database``, ``engines``, ``rows``, ``schema``, ``migrating``, ``erasure``), who
may do what (``keys``, ``allowances``, ``custodians``), and what runs and warns (``processes``, ``alarms``,
``notices``).
"""
