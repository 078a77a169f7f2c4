"""What a served model is compared with, and when that comparison becomes an alarm."""
