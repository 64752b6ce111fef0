"""The wire contract, version 1: what crosses a process boundary, declared once.

``names`` turns names into subject tokens, ``subjects`` builds and parses subjects, ``streams``
declares the JetStream streams and consumers, ``messages`` the bodies, ``codec`` their bounded
encoding, and ``document`` renders docs/protocol.md from all of them. Nothing here performs I/O.
"""
