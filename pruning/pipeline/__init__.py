"""From a wish to results: plan, sweep, execute, watch."""
