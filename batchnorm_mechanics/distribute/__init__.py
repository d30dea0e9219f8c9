"""Work that more processes or machines than one share."""
