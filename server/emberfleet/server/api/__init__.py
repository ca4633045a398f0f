"""What the server speaks over HTTP: routes, admission of requests, and the table of refusals."""
