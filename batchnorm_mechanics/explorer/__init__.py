"""The page where batch norm can be played with: one module for browsers and for notebooks."""
