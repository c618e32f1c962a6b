// Keyboard shortcuts: R refine or stop, A accept, Escape discard, Ctrl+Z undo, Ctrl+Y or Ctrl+Shift+Z redo.
window.addEventListener(
  "keydown",
  (event) => {
    const typing = event.target.closest && event.target.closest("input:not([type=range]), textarea, [role=listbox]");
    if (typing || event.altKey || event.repeat || !window.trame) return;
    const pressed = event.key.toLowerCase();
    const control = event.ctrlKey || event.metaKey;
    let name = null;
    if (control && pressed === "z") name = event.shiftKey ? "y" : "z";
    else if (control && pressed === "y") name = "y";
    else if (!control && ["r", "a", "escape"].includes(pressed)) name = pressed;
    if (name === null) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // the views have shortcuts of their own
    window.trame.trigger("shortcut", [name]);
  },
  true,
);
