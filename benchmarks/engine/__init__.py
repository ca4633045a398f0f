"""The engine beside its peers: the same networks, weights and inputs in every library, timed in turn.

`works` writes a network as files that every interpreter reads, `job` says what a child process is told,
one module a library does it, `compare` times them and `results` keeps what came out.
"""
