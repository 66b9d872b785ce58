"""What would become of a load under a policy?  Played where nothing goes wrong."""
