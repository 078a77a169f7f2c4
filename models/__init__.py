"""What Okruh knows: definitions, contracts, learning, watching, deciding. No network, no clock, no product beneath."""
