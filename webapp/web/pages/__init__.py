"""The page for people: figures, lists and stories of calls as HTML, in Vietnamese and English."""
