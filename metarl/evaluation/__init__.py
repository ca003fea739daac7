"""What a trained policy can do: curves with intervals, plots and films."""
