"""Ray Serve deployments: the models and what is composed from them."""
