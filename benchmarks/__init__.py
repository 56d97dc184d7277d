"""Speed against plain formulations, as ratios of times taken in turn in one run; see README.md here."""
