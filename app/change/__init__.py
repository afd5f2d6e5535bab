"""Another profile for a service that runs: what changes, how, and the way back."""
