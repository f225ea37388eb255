// Trusted Types (the server's Content-Security-Policy asks for them): a browser refuses to turn
// text into HTML unless one of two policies has made it. DOMPurify makes its own, "dompurify".

// The other name is taken here and refuses everything, so that no later code can take it.
globalThis.trustedTypes?.createPolicy("goblin", {
  createHTML() {
    throw new TypeError("only chat/markdown.js makes HTML, by DOMPurify");
  },
});
