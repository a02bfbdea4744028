"""What a call is: reports, the rule that folds them, and when eSMS is asked again."""
