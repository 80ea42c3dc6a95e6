"""How Hostler scales: printed with the bars beside."""
