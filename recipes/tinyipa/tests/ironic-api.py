#!/usr/bin/python3
"""Answers as much of Ironic's API as the agent asks for until it waits for work: versions, lookup, heartbeat."""

import http.server
import json
import os

NODE = "11111111-2222-3333-4444-555555555555"
VERSION = {"id": "v1", "version": "1.99", "min_version": "1.1"}


class Api(http.server.BaseHTTPRequestHandler):
    def answer(self, code, body):
        body = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if not self.path.startswith("/v1/lookup"):
            self.answer(200, {"default_version": VERSION, "versions": [VERSION]})
        elif "addresses=" in self.path:
            config = {"heartbeat_timeout": 30, "agent_token": "a" * 32, "agent_token_required": True}
            node = {"uuid": NODE, "properties": {}, "instance_info": {}, "driver_internal_info": {}}
            self.answer(200, {"node": node, "config": config})
        else:
            self.answer(400, {"error_message": "a lookup takes addresses"})

    def do_POST(self):
        beat = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        known = self.path == "/v1/heartbeat/" + NODE and beat.get("agent_token") == "a" * 32
        self.answer(202 if known else 404, {})


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Api).serve_forever()
