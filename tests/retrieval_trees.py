"""Small directories in the layouts of CUB-200-2011, Cars196, SOP, In-Shop and Market-1501."""

import itertools

import numpy as np
import scipy.io


def write_all(directory, classes):
    """Writes the first four benchmarks with the encoded images of two classes.

    The first class is in the subset "train", the second in "test". In-Shop has the second class as queries and gallery.
    """
    first, second = classes
    write_cub(directory / "CUB_200_2011", {1: first, 101: second})
    write_cars(directory / "cars196", {1: first, 99: second})
    write_sop(directory / "Stanford_Online_Products", {1: first}, {11319: second})
    half = len(second) // 2
    write_in_shop(directory / "In-shop", {1: first}, {2: second[:half]}, {2: second[half:]})


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_cub(directory, classes):
    """Writes `{class: images}`, with the classes in `classes.txt` that real classes.txt has besides them left out."""
    names = {1: "001.Black_footed_Albatross", 101: "101.White_Pelican"}
    lines = {"images.txt": [], "image_class_labels.txt": [], "classes.txt": [], "train_test_split.txt": []}
    image_id = 0
    for class_id, images in classes.items():
        folder = names.get(class_id, f"{class_id:03d}.Bird_{class_id}")
        lines["classes.txt"].append(f"{class_id} {folder}")
        for number, image in enumerate(images, start=1):
            image_id += 1
            name = f"{folder}/{folder[4:].title()}_{number:04d}.jpg"
            _write(directory / "images" / name, image)
            lines["images.txt"].append(f"{image_id} {name}")
            lines["image_class_labels.txt"].append(f"{image_id} {class_id}")
            lines["train_test_split.txt"].append(f"{image_id} {number % 2}")
    for name, rows in lines.items():
        (directory / name).write_text("".join(f"{row}\n" for row in rows))


def write_cars(directory, classes, num_classes=196):
    """Writes `{class: images}`."""
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    pairs = [(class_id, image) for class_id, images in classes.items() for image in images]
    annotations = np.zeros((1, len(pairs)), [(field, object) for field in fields])
    for row, (class_id, image) in enumerate(pairs):
        name = f"car_ims/{row + 1:06d}.jpg"
        _write(directory / name, image)
        annotations[0, row] = (name, *np.array([10, 20, 600, 400], np.uint16), np.uint8(class_id), np.uint8(row % 2))
    names = np.empty((1, num_classes), object)
    names[0] = [f"Car {number} 2012" for number in range(1, num_classes + 1)]
    names[0, 0], names[0, 98 % num_classes] = "AM General Hummer SUV 2000", "Dodge Ram 2009"
    scipy.io.savemat(directory / "cars_annos.mat", {"annotations": annotations, "class_names": names})


def write_sop(directory, train, test):
    """Writes two dictionaries `{class: images}`."""
    image_id = itertools.count(1)
    for subset, super_class, classes in (("train", "bicycle", train), ("test", "chair", test)):
        rows = ["image_id class_id super_class_id path"]
        for class_id, images in classes.items():
            start = 0 if len(classes) == 1 else class_id * 100
            for number, image in enumerate(images, start=start):
                name = f"{super_class}_final/{number}.jpg"
                _write(directory / name, image)
                rows.append(f"{next(image_id)} {class_id} {1 + (subset == 'test')} {name}")
        (directory / f"Ebay_{subset}.txt").write_text("\n".join(rows) + "\n")


def write_in_shop(directory, train, query, gallery, nested=False):
    """Writes three dictionaries `{item: images}`, with the list and the images in folders if `nested`."""
    rows = []
    for subset, classes in (("train", train), ("query", query), ("gallery", gallery)):
        for item, images in classes.items():
            item_id = f"id_{item:08d}"
            for number, image in enumerate(images, start=1 if subset != "gallery" else 11):
                name = f"img/WOMEN/Dresses/{item_id}/{number:02d}_1_front.jpg"
                _write(directory / ("Img" if nested else "") / name, image)
                rows.append(f"{name:<60} {item_id} {subset}")
    lines = [str(len(rows)), "image_name item_id evaluation_status", *rows]
    _write(directory / ("Eval" if nested else "") / "list_eval_partition.txt", ("\n".join(lines) + "\n").encode())


def write_market(directory, train, query, gallery):
    """Writes three dictionaries `{identity: images}`. The camera of an image is its position, from 1."""
    for folder, people in (("bounding_box_train", train), ("query", query), ("bounding_box_test", gallery)):
        for identity, images in people.items():
            text = "-1" if identity == -1 else f"{identity:04d}"
            for camera, image in enumerate(images, start=1):
                _write(directory / folder / f"{text}_c{camera}s1_{camera:06d}_00.jpg", image)
