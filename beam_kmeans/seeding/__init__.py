"""How the initial centers of a model are found: each way a sequence of passes over the rows."""
