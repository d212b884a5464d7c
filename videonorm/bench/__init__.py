"""What the parts cost beside their peers: each benchmark measures all of them in one run, to one CSV."""
