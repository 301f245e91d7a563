"""Where numbers and pictures of a training go: a file always, dashboards on request."""
