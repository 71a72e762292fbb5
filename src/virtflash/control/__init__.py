"""Remote control of a running server: JSON-RPC 2.0 on a UNIX socket, an object a line.

`json_rpc` is the protocol, `operator` what can be asked for, `methods` leads from one to the other; `control_socket`
serves it, `client` asks.
"""
