"""From IR to Envoy's messages: mechanical. An IR that cannot be built is a bug."""
