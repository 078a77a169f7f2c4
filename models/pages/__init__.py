"""Pages for people: one self-contained HTML document each, made of what a bundle says. Pure, and without a clock."""
