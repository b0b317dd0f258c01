// Node `ws`: one prepared buffer, ws.send() to every client. Arguments: ping seconds, frame bytes.
"use strict";
const http = require("node:http");
const { WebSocketServer } = require("ws");

const [pingSeconds, frameBytes] = process.argv.slice(2).map(Number);
const start = '{"type":"chat_message","roomId":"bench","text":"';
const message = Buffer.from(start + "x".repeat(frameBytes - start.length - 2) + '"}');

const server = http.createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on("connection", (socket) => socket.on("error", () => socket.terminate()));

setInterval(() => {
  for (const socket of sockets.clients) socket.ping();
}, pingSeconds * 1000);

process.stdin.on("data", (line) => {
  const count = Number(line);
  for (let sent = 0; sent < count; sent++) {
    for (const socket of sockets.clients) socket.send(message, { binary: false });
  }
});
process.stdin.on("end", () => process.exit(0));
server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(`ready ${server.address().port}`));
