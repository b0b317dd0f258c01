// A proxy as Node applications have one: express, the compression that they usually put before everything, http-proxy.
// node compress.mjs TARGET [NODE_MODULES]; prints its own address.
import { createRequire } from "node:module";

const [target, modules = import.meta.dirname] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const proxy = require("http-proxy").createProxyServer({ target });
const app = require("express")();
app.use(require("compression")());
app.use((request, response) => proxy.web(request, response, (error) => response.status(502).end(String(error))));
const server = app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
