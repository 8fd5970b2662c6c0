"""Cordon, a quarantine gate for media.

How media flows, one way, top to bottom::

    api · cli                 entrances: read the request, nothing more
        │
    quarantine                one bounded buffer in RAM for each medium; digests as the bytes arrive
        │  fetch              URL → untrusted bytes, every hop checked and pinned
    hashing                   medium → PDQ and pHash of each rendering, decoded in a locked child process
        │
    matching                  signals × banks → matches, on an immutable index
        │
    decide                    matches + banks consulted → verdict (pure)
        │
    report · store            on a match, one transaction: sealed report, sighting, audit entry
        │
    release                   only after that commit does anything leave

``pipeline`` alone knows this order. A second stream, ``banks`` (lists → store → index), meets the
first at the index alone; a third, ``filing`` (sealed report → custodians → destination), starts at the store.
Two processes run all of it, ``main`` (the gate) and ``worker``; ``wiring`` gives each stage its adapters.

Promises (each has a file in ``tests/promises``):

1. Media that a clear verdict did not release is never written to a file. No module here imports
   ``tempfile``, ``shutil`` or a form parser that spools.
2. One path: every entrance calls ``pipeline.ingest``.
3. Fail closed: a verdict starts as undecidable, and nothing defaults to clear.
4. Report before answer: a match is durably committed before the answer starts.
5. Sealed: the context of a match is readable only with a custodian's key; where the worker files by itself,
   with its key too.
6. No oracle: a caller learns a verdict, never which entry matched or how closely.
7. Only ``fetch`` dials out. 8. Only the sandbox decodes.
"""

__version__ = "0.1.0"
