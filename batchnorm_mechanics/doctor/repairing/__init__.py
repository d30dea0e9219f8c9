"""What `repair` and `recalibrate` do: decisions, estimates, changes and the way back."""
