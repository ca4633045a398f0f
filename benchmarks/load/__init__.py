"""A thousand devices in one process or two: real keys, real HTTP, a real server."""
