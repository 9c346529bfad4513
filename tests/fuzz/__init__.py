"""Programs that feed the C layer what no honest guest sends; tests/csrc builds and runs them."""
