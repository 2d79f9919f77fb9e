"""What Knative cannot carry: processes that stay up beside what they read, and hand logs on to ingest by HTTP.

The relay: relay (the command), receive (sockets to records, with framing), handshake, batcher, spool, forward.
The shipper: ship (the command), shipper; pipe, or follow and file; lines, records, spool, forward; progress.
Both: window (times that ingest takes), refused (what it does not).
Python programs: handler.
"""
