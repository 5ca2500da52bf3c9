"""MCP behind the gate: a stdio proxy, a host of MCP servers, an HTTP gateway; what is allowed is decided in `core`."""
