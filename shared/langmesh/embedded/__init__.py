"""Real nats-server and etcd processes, started and ended with the process that needs them.

``guard`` (a program of its own) ends what a killed supervisor leaves behind; ``process`` starts and
stops children; ``server``, ``nats`` and ``etcd`` know the two servers; ``servers`` runs both for a
home folder and ``pool`` lends a fresh pair to a test. Nothing here is a client of either server.
"""
