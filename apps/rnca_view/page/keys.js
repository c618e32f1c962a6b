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
    else if (!control && pressed === "escape") name = "escape";
    const button = control ? null : document.getElementById({ r: "refine", a: "accept" }[pressed]);
    if (name === null && button === null) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // the views have shortcuts of their own
    if (button) button.click();
    else window.trame.trigger("shortcut", [name]);
  },
  true,
);
