"""What implementations get wrong, by the part of the algorithm in which they do."""
