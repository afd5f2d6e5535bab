"""Load and measurements over HTTP alone; imports nothing else of Corral."""
