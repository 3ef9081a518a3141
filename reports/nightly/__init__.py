"""What the nightly workflow runs besides the claims: its plan, its checks, its comparison with the night before."""
