"""The tribunal as people meet it: its wire types and their description, and the `corral tribunal` command."""
