"""The look of our pages, light and dark: what they all have, as text that a page carries in itself."""

LOOK = """
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --sheet: #fff; --ink: #1b2330; --quiet: #56606f; --line: #d5dae2; --edge: #7d8796;
  --accent: #0b5cad; --on-accent: #fff; --wrong: #b3261e; --wrong-ground: #fdf1f0; --band: #d9e8f8;
  --second: #b4540a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12161c; --sheet: #1b2129; --ink: #e8ecf2; --quiet: #a4afbd; --line: #333c48; --edge: #78859a;
    --accent: #7cb8f5; --on-accent: #0c1a29; --wrong: #ff9d94; --wrong-ground: #35211f; --band: #23405e;
    --second: #f0a45d;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 0 0 1rem; font-size: 1.1rem; }
p { margin: 0; }
header { margin-bottom: 1.5rem; }
header p, .hint, .quiet, caption, th { color: var(--quiet); }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
.sheet { background: var(--sheet); border: 1px solid var(--line); border-radius: .75rem; padding: 1.25rem; }
.hint { font-size: .875rem; margin-top: .25rem; }
table {
  width: 100%; margin-bottom: 1.5rem; border-collapse: collapse; break-inside: avoid;
  font-variant-numeric: tabular-nums;
}
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .4rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 400; padding-right: 1rem; }
summary { cursor: pointer; min-height: 2rem; color: var(--accent); }
"""
