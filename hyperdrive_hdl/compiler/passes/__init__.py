"""The front end's steps, one module per concern; ``pipeline.STEPS`` names them in order."""
