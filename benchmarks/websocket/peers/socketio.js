// Socket.IO on Node, WebSocket only: io.to(room).emit(). Arguments: ping seconds, frame bytes.
"use strict";
const http = require("node:http");
const { Server } = require("socket.io");

const [pingSeconds, frameBytes] = process.argv.slice(2).map(Number);
const envelope = '42["chat_message",""]'.length;
const text = "x".repeat(frameBytes - envelope);

const server = http.createServer();
const io = new Server(server, {
  transports: ["websocket"],
  pingInterval: pingSeconds * 1000,
  pingTimeout: 20_000,
  serveClient: false,
});
io.on("connection", (socket) => socket.join("bench"));

process.stdin.on("data", (line) => {
  const count = Number(line);
  for (let sent = 0; sent < count; sent++) io.to("bench").emit("chat_message", text);
});
process.stdin.on("end", () => process.exit(0));
server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(`ready ${server.address().port}`));
