"""Parts of a running service are broken under a steady load: what clients see, for how long, and what comes back."""
