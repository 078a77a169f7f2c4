"""What Okruh stands on: settings, the lake, the tracker, the journal, the Bento store."""
