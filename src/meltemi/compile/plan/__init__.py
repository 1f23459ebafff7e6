"""From the model to IR: what every cluster, route and listener should be."""
