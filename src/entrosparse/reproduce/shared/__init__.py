"""What several experiments share: learners that are only compared with, and runs that are looked at twice."""
