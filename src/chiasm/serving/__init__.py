"""An OpenAI-compatible server and a web page."""
