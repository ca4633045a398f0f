"""Where the server keeps what it knows: one database and one folder."""
