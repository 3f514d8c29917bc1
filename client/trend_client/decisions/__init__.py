"""What to do about a forecast: orders, seasons, new products, recommendations. All of it stays on this machine."""
